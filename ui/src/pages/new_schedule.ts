// A new schedule.
import { html } from "../html.ts";
import { ScheduleForm } from "../parts/resources/schedule_form.ts";
import { toast } from "../parts/controls/toast.ts";
import { go, href, route } from "../router.ts";
import type { Schedule } from "../wire.ts";

export default function NewSchedule() {
  const wanted = route.peek().query.get("function") ?? "";
  return html`
    <p class="crumbs"><a href="#/schedules">Schedules</a> / new</p>
    <div class="title">
      <h1>New schedule</h1>
    </div>
    <${ScheduleForm} function=${wanted} onSaved=${(made: Schedule) => {
      toast(`${made.name} is made.`);
      go(href(["schedules", made.name]));
    }} onCancel=${() => go("#/schedules")} />
  `;
}
